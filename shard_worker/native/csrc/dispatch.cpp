// Which kernels this processor can run.
#include <cstring>

#include "kernels.h"

namespace tandem {

namespace {

#if defined(__x86_64__)
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

bool usable(const Kernels& kernels) {
#if defined(__x86_64__)
    if (&kernels == &kernels_avx512_bf16) {
        return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
    }
    if (&kernels == &kernels_avx512_vnni) {
        return has_avx512() && __builtin_cpu_supports("avx512vnni");
    }
    if (&kernels == &kernels_avx512) {
        return has_avx512();
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
        &kernels_avx512_bf16, &kernels_avx512_vnni, &kernels_avx512, &kernels_avx2,
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
