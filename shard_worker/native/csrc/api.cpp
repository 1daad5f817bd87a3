// The C interface, called through ctypes: no Python or PyTorch header, hence quick to build and tied to no version.
#include <cstdint>
#include <exception>

#include "compact.h"
#include "passes.h"

namespace {

struct Runner {
    Runner(const tandem::Kernels& kernels, int num_threads) : kernels(kernels), team(num_threads) {}
    const tandem::Kernels& kernels;
    tandem::Team team;
};

// Beside what an all-reduce may return.
constexpr int32_t done = 0, no_memory = -1;

template <class Work>
int32_t guarded(Work work) {
    try {
        return work();
    } catch (const std::exception&) {  // allocations are all that can fail
        return no_memory;
    }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// `kernels` names an instruction set, "" the best one. Null where the processor cannot run it.
void* tandem_runner_new(const char* kernels, int32_t num_threads) {
    const tandem::Kernels* selected = tandem::select_kernels(kernels);
    if (!selected) {
        return nullptr;
    }
    try {
        return new Runner(*selected, num_threads);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void tandem_runner_delete(void* runner) {
    delete static_cast<Runner*>(runner);
}

const char* tandem_runner_kernels(void* runner) {
    return static_cast<Runner*>(runner)->kernels.name;
}

// Whether it multiplies packed matrices.
int32_t tandem_runner_packs(void* runner) {
    return static_cast<Runner*>(runner)->kernels.linear_packed != nullptr;
}

// Make `weight`, bfloat16[rows, columns], compact (compact.h). Returns the number of exceptions, -1 where there are more
// than `most`, or -2 without memory.
int64_t tandem_compact(void* runner, const uint16_t* weight, int64_t rows, int64_t columns, uint8_t* out,
                       void* exceptions, int64_t most) {
    try {
        auto* to = static_cast<tandem::Exception*>(exceptions);
        return make_compact(static_cast<Runner*>(runner)->team, weight, rows, columns, out, to, most);
    } catch (const std::exception&) {
        return -2;
    }
}

// 0, no_memory, or what the all-reduce that failed returned.
int32_t tandem_step(void* runner, const tandem::Model* model, const tandem::Step* step) {
    Runner& on = *static_cast<Runner*>(runner);
    return guarded([&] { return run_step(on.kernels, on.team, *model, *step); });
}

int32_t tandem_linear(void* runner, const tandem::Matrix* matrix, const float* x, int64_t num_rows, float* out,
                      int32_t rounds) {
    Runner& on = *static_cast<Runner*>(runner);
    return guarded([&] {
        run_linear(on.kernels, on.team, *matrix, x, num_rows, out, rounds != 0);
        return done;
    });
}

int32_t tandem_draw(void* runner, const tandem::Draws* draws) {
    Runner& on = *static_cast<Runner*>(runner);
    return guarded([&] {
        run_draws(on.kernels, on.team, *draws);
        return done;
    });
}

// As tandem_step.
int32_t tandem_passes(void* runner, const tandem::Model* model, const tandem::Passes* passes) {
    Runner& on = *static_cast<Runner*>(runner);
    return guarded([&] { return run_passes(on.kernels, on.team, *model, *passes); });
}

}  // extern "C"
#pragma GCC visibility pop
