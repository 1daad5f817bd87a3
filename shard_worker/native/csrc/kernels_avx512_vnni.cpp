// The kernels with AVX-512 and its sums of products of bytes.
// clang-format off
#include "vec_avx512.h"
#include "linear.h"
#include "int_vnni.h"
namespace { using Int = IntVnni; }
#include "quantize.h"
#include "linear_packed.h"
#include "pairs_avx512.h"
#include "linear_compact.h"
#include "pointwise.h"
#include "attention.h"
#include "draw.h"

namespace tandem {

const Kernels kernels_avx512_vnni = {
    "avx512_vnni", linear, nullptr, nullptr, arrange, quantize, linear_packed,
    linear_compact, nullptr,
    norm, silu_mul, attend<float>, attend<uint16_t>, draw};

}  // namespace tandem
