// Weight-only matrix products for few rows: x[M, K] float32 times w[N, K] in any format.
// A weight is widened to float32 in registers and used for up to `block_rows` rows of x; each product's sum is
// one register, added up in the order of k whatever is computed beside it. Included once per instruction set.
#pragma once

#include "formats.h"

namespace {

// How weights meet activations: float32 by float32, fused.
struct ExactDot {
    using Activation = float;
    struct Run {
        Vec::Reg first, second;
    };
    using Weights = Run;
    template <class F>
    static Run weights(const F& format, int64_t row, int64_t k) {
        Run loaded;
        format.load(row, k, loaded.first, loaded.second);
        return loaded;
    }
    static Run load(const float* x) { return {Vec::load(x), Vec::load(x + Vec::width)}; }
    static Vec::Reg add(Vec::Reg sum, const Run& weights, const Run& x) {
        return Vec::fma(weights.second, x.second, Vec::fma(weights.first, x.first, sum));
    }
};

// With few rows of x memory is what we wait for. The processor's prefetchers follow one stream: reading several rows
// of a matrix side by side reaches half its speed, so a byte of each cache line is read before, in order. With many
// rows that would only be a wait of its own, and prefetching beside the sums is better.
constexpr int64_t many_rows = 8;
constexpr int64_t prefetch_bytes = 2048;

void touch(const char* from, const char* to) {
    for (; from < to; from += 64) {
        static_cast<void>(*static_cast<const volatile char*>(from));
    }
}

template <class Dot, class F, int num_rows, int num_outputs>
void block(const F& format, const typename Dot::Activation* x, int64_t ldx, int64_t n, float* out, int64_t ldo,
           bool accumulate, bool ahead) {
    constexpr int step = 2 * Vec::width;
    const int64_t columns = format.matrix.columns;
    Vec::Reg sums[num_outputs][num_rows];
    for (int j = 0; j < num_outputs; j++) {
        for (int m = 0; m < num_rows; m++) {
            sums[j][m] = Vec::zero();
        }
    }
    int64_t k = 0;
    for (; k + step <= columns; k += step) {
        typename Dot::Weights weights[num_outputs];
        for (int j = 0; j < num_outputs; j++) {
            weights[j] = Dot::weights(format, n + j, k);
            if (ahead) {
                __builtin_prefetch(format.bytes(n + j, k) + prefetch_bytes);
            }
        }
        for (int m = 0; m < num_rows; m++) {
            const auto run = Dot::load(x + m * ldx + k);
            for (int j = 0; j < num_outputs; j++) {
                sums[j][m] = Dot::add(sums[j][m], weights[j], run);
            }
        }
    }
    for (int j = 0; j < num_outputs; j++) {
        for (int m = 0; m < num_rows; m++) {
            float total = Vec::sum(sums[j][m]);
            for (int64_t rest = k; rest < columns; rest++) {
                total = Vec::fma1(widen(x[m * ldx + rest]), format.one(n + j, rest), total);
            }
            total *= format.factor(n + j);
            float& cell = out[m * ldo + n + j];
            cell = accumulate ? cell + total : total;
        }
    }
}

template <class Dot, class F, int num_outputs>
void outputs(const F& format, const typename Dot::Activation* x, int64_t ldx, int64_t num_rows, int64_t n, float* out,
             int64_t ldo, bool accumulate) {
    const bool many = num_rows >= many_rows;
    if (num_outputs > 1 && !many) {
        touch(format.row(n), format.row(n + num_outputs));
    }
    int64_t m = 0;
    if constexpr (Vec::block_rows >= 8) {
        for (; m + 8 <= num_rows; m += 8) {
            block<Dot, F, 8, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate,
                                       m == 0);
        }
    }
    if constexpr (Vec::block_rows >= 4) {
        for (; m + 4 <= num_rows; m += 4) {
            block<Dot, F, 4, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate,
                                          many && m == 0);
        }
    }
    for (; m + 2 <= num_rows; m += 2) {
        block<Dot, F, 2, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate, many && m == 0);
    }
    if (m < num_rows) {
        block<Dot, F, 1, num_outputs>(format, x + m * ldx, ldx, n, out + m * ldo, ldo, accumulate, false);
    }
}

template <class Dot, class F>
void linear_of(const Matrix& matrix, const typename Dot::Activation* x, int64_t ldx, int64_t num_rows, int64_t first,
               int64_t last, float* out, int64_t ldo, bool accumulate) {
    const F format(matrix);
    const bool wide = num_rows >= Vec::block_rows;
    int64_t n = first;
    // Few rows: four outputs at once hide the latency of a sum. Many: fewer, or the sums leave the registers.
    for (; !wide && n + 4 <= last; n += 4) {
        outputs<Dot, F, 4>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
    constexpr int beside = Vec::block_rows >= 8 ? 3 : 2;
    for (; n + beside <= last; n += beside) {
        outputs<Dot, F, beside>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
    for (; n < last; n++) {
        outputs<Dot, F, 1>(format, x, ldx, num_rows, n, out, ldo, accumulate);
    }
}

template <class Dot>
void linear_with(const Matrix& matrix, const typename Dot::Activation* x, int64_t ldx, int64_t num_rows, int64_t first,
                 int64_t last, float* out, int64_t ldo, bool accumulate) {
    switch (Format(matrix.format)) {
        case Format::float32:
            return linear_of<Dot, Dense<float>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::bfloat16:
            return linear_of<Dot, Dense<uint16_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int8:
            return linear_of<Dot, Dense<int8_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int4_bfloat16:
            return linear_of<Dot, Int4<uint16_t>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::int4_float32:
            return linear_of<Dot, Int4<float>>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
        case Format::packed_int8:
        case Format::packed_int4:
            return;  // linear_packed.h's
        case Format::compact_bfloat16:
            return;  // linear_compact.h's
    }
}

void linear(const Matrix& matrix, const float* x, int64_t ldx, int64_t num_rows, int64_t first, int64_t last,
            float* out, int64_t ldo, bool accumulate) {
    linear_with<ExactDot>(matrix, x, ldx, num_rows, first, last, out, ldo, accumulate);
}

// Of each run of 2 * width columns the even ones first, then the odd ones; what is left over stays as it is.
void arrange(float* x, int64_t ldx, int64_t num_rows, int64_t columns) {
    constexpr int step = 2 * Vec::width;
    float run[step];
    for (int64_t m = 0; m < num_rows; m++) {
        for (int64_t k = 0; k + step <= columns; k += step) {
            float* at = x + m * ldx + k;
            std::memcpy(run, at, sizeof run);
            for (int i = 0; i < Vec::width; i++) {
                at[i] = run[2 * i];
                at[Vec::width + i] = run[2 * i + 1];
            }
        }
    }
}

}  // namespace
