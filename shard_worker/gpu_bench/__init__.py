"""`tandem bench-gpu`: is the GPU path right, and how fast is it? Stages in processes of their own, one deadline."""
