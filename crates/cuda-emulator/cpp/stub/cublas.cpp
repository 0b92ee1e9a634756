// A libcublas.so.12 over the stub of the driver: one product, by plain loops, with sums in f64 that are rounded once.
#include <cstdint>
#include <cstring>

#include "cuda.hpp"

namespace {

enum Status { NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };

struct Handle { void *stream, *workspace; };

// Injected failures come as they are: they are numbers of cuBLAS then.
int status_of(int code) { return code == 201 ? NOT_INITIALIZED : code; }

double of_bf16(uint16_t bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

}  // namespace

#define ENTER(NAME, DETAIL) \
    if (const int code = netweight_stub_enter(#NAME, true, DETAIL)) return status_of(code)

extern "C" {

int cublasCreate_v2(Handle **handle) {
    ENTER(cublasCreate_v2, "");
    *handle = new Handle{nullptr, nullptr};
    return 0;
}
int cublasDestroy_v2(Handle *handle) {
    ENTER(cublasDestroy_v2, "");
    delete handle;
    return 0;
}
int cublasSetStream_v2(Handle *handle, void *stream) {
    ENTER(cublasSetStream_v2, "");
    *handle = {stream, nullptr};  // the real one forgets the workspace, too
    return 0;
}
int cublasSetWorkspace_v2(Handle *handle, void *workspace, size_t bytes) {
    ENTER(cublasSetWorkspace_v2, std::to_string(bytes));
    handle->workspace = workspace;
    return 0;
}
int cublasSetMathMode(Handle *, int mode) {
    ENTER(cublasSetMathMode, std::to_string(mode));
    return 0;
}
// Column-major: c (m, n) = alpha a^T (m, k) b (k, n) + beta c. No other product is asked for.
int cublasGemmEx(Handle *handle, int a_op, int b_op, int m, int n, int k, const float *alpha, const uint16_t *a,
                 int a_type, int a_stride, const uint16_t *b, int b_type, int b_stride, const float *beta, float *c,
                 int c_type, int c_stride, int compute_type, int algorithm) {
    ENTER(cublasGemmEx, std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k));
    if (a_op != 1 || b_op != 0 || a_type != 14 || b_type != 14 || c_type != 0) return NOT_SUPPORTED;
    if (compute_type != 68 || algorithm != -1 || !handle->workspace) return NOT_SUPPORTED;
    if (m < 0 || n < 0 || k < 0 || a_stride < k || b_stride < k || c_stride < m) return INVALID_VALUE;
    const float scale = *alpha, kept = *beta;
    const auto product = [=] {
        for (int col = 0; col < n; col++) {
            for (int row = 0; row < m; row++) {
                double sum = 0;
                for (int i = 0; i < k; i++)
                    sum += of_bf16(a[size_t(row) * a_stride + i]) * of_bf16(b[size_t(col) * b_stride + i]);
                float *out = c + size_t(col) * c_stride + row;
                *out = scale * float(sum) + (kept == 0 ? 0 : kept * *out);
            }
        }
        return 0;
    };
    return netweight_stub_submit(handle->stream, product) ? EXECUTION_FAILED : 0;
}

}  // extern "C"
