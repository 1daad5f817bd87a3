// The kernels with AVX-512.
// clang-format off
#include "vec_avx512.h"
#include "linear.h"
#include "pointwise.h"
#include "attention.h"

namespace tandem {

const Kernels kernels_avx512 = {"avx512", linear, nullptr, nullptr, arrange, norm, silu_mul, attend<float>, attend<uint16_t>};

}  // namespace tandem
