// Which kernels this processor can run.
#include <cstring>

#include "kernels.h"

namespace tandem {

namespace {

bool usable(const Kernels& kernels) {
#if defined(__x86_64__)
    const bool rounded = &kernels == &kernels_avx512_bf16;
    if (rounded || &kernels == &kernels_avx512) {
        return (!rounded || __builtin_cpu_supports("avx512bf16")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    }
    if (&kernels == &kernels_avx2) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#endif
    return &kernels == &kernels_portable;
}

}  // namespace

const Kernels* select_kernels(const char* name) {
    const Kernels* best_first[] = {
#if defined(__x86_64__)
        &kernels_avx512_bf16, &kernels_avx512, &kernels_avx2,
#endif
        &kernels_portable};
    for (const Kernels* kernels : best_first) {
        if ((!*name || !std::strcmp(name, kernels->name)) && usable(*kernels)) {
            return kernels;
        }
    }
    return nullptr;
}

}  // namespace tandem
