// The kernels with AVX2 and FMA.
// clang-format off
#include "vec_avx2.h"
#include "linear.h"
#include "int_avx2.h"
namespace { using Int = IntAvx2; }
#include "quantize.h"
#include "linear_packed.h"
#include "pairs_avx2.h"
#include "linear_compact.h"
#include "pointwise.h"
#include "attention.h"
#include "draw.h"

namespace tandem {

const Kernels kernels_avx2 = {
    "avx2", linear, nullptr, nullptr, arrange, quantize, linear_packed,
    linear_compact, nullptr,
    norm, silu_mul, attend<float>, attend<uint16_t>, draw};

}  // namespace tandem
