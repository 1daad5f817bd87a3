// The kernels with AVX-512.
// clang-format off
#include "vec_avx512.h"
#include "linear.h"
#include "int_avx512.h"
namespace { using Int = IntAvx512; }
#include "quantize.h"
#include "linear_packed.h"
#include "pairs_avx512.h"
#include "linear_compact.h"
#include "pointwise.h"
#include "attention.h"
#include "draw.h"

namespace tandem {

const Kernels kernels_avx512 = {
    "avx512", linear, nullptr, nullptr, arrange, quantize, linear_packed,
    linear_compact, nullptr,
    norm, silu_mul, attend<float>, attend<uint16_t>, draw};

}  // namespace tandem
