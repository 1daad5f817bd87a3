// The kernels with AVX-512, its sums of products of bytes and its bfloat16 products.
// clang-format off
#include "vec_avx512.h"
#include "linear.h"
#include "int_vnni.h"
namespace { using Int = IntVnni; }
#include "quantize.h"
#include "linear_packed.h"
#include "pairs_avx512.h"
#include "linear_compact.h"
#include "dot_bfloat16.h"
#include "pointwise.h"
#include "attention.h"
#include "draw.h"

namespace tandem {

const Kernels kernels_avx512_bf16 = {
    "avx512_bf16", linear, linear_rounded, round, arrange, quantize, linear_packed,
    linear_compact, linear_compact_rounded,
    norm, silu_mul, attend<float>, attend<uint16_t>, draw};

}  // namespace tandem
