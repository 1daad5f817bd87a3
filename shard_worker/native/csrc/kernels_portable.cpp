// The kernels with what every processor has.
// clang-format off
#include "vec_portable.h"
#include "linear.h"
#include "pointwise.h"
#include "attention.h"
#include "draw.h"

namespace tandem {

const Kernels kernels_portable = {
    "portable", linear, nullptr, nullptr, arrange, nullptr, nullptr, nullptr, nullptr,
    norm, silu_mul, attend<float>, attend<uint16_t>, draw};

}  // namespace tandem
