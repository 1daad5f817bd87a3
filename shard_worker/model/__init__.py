"""What a rank computes: the Llama-family decoder, its rotary embedding, its attention and its KV cache."""
