// A libcuda.so.1 over the emulator: the functions that kernels-cuda's src/driver calls, as strict as the real ones are
// about contexts, captures and what is destroyed when. Streams are done with everything when a call returns. Says what
// is called on standard error, "stub: NAME DETAIL", where NETWEIGHT_STUB_LOG is set. Further environment, in brackets
// what is so without:
//   NETWEIGHT_STUB_DEVICES [1]             GPUs
//   NETWEIGHT_STUB_DRIVER_VERSION [13000]  as cuDriverGetVersion returns it
//   NETWEIGHT_STUB_CAPABILITY [8.0]        of each GPU
//   NETWEIGHT_STUB_MEMORY [1073741824]     bytes of each GPU
//   NETWEIGHT_STUB_FAIL [none]             NAME:CODE or NAME:CODE:N: call N (1) of a function fails with this code
// Next in the flow: cublas.cpp.
#include "cuda.hpp"

#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

extern "C" int netweight_emulator_launch(const char *name, const unsigned grid[3], unsigned threads,
                                         unsigned shared_bytes, const void *args, size_t args_bytes,
                                         unsigned long long order, char *error, size_t error_bytes);
extern "C" size_t netweight_emulator_args_bytes(const char *name);

namespace {

enum Code {
    INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_WRONG_THREAD = 908,
};

struct Text { int code; const char *name, *text; };
const Text TEXTS[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

using Work = std::function<int()>;

struct Stream {
    bool is_capturing = false, is_broken = false;
    std::thread::id capturer;
    std::vector<Work> captured;
};
struct Event { bool is_reached = false; std::chrono::steady_clock::time_point at; };
struct Graph { std::vector<Work> work; };
struct Module { int users = 0; };
struct Function { std::string name; size_t args_bytes; unsigned dynamic_bytes = 48 << 10; };
struct Mapping { char *base; size_t mapped_bytes, len; };

constexpr size_t PAGE_BYTES = 4096, ALIGNMENT = 16;
constexpr int MAX_SHARED_BYTES = 99 << 10;

std::recursive_mutex lock;
bool is_initialized;
int n_contexts, lost;  // `lost` is the error that every call returns from then on
char context;          // its address is the context
thread_local void *current;
std::map<unsigned long long, Mapping> memory, pinned;
size_t used_bytes;
std::set<Stream *> streams;
std::set<Event *> events;
std::set<Graph *> graphs, executables;
std::set<Module *> modules;
std::map<std::string, std::unique_ptr<Function>> functions;
std::map<std::string, int> n_calls;

long setting(const char *name, long otherwise) {
    const char *text = std::getenv(name);
    return text ? std::atol(text) : otherwise;
}
int capability() {  // 86 for 8.6
    int major = 8, minor = 0;
    if (const char *text = std::getenv("NETWEIGHT_STUB_CAPABILITY")) std::sscanf(text, "%d.%d", &major, &minor);
    return 10 * major + minor;
}
size_t memory_bytes() { return size_t(setting("NETWEIGHT_STUB_MEMORY", 1l << 30)); }

bool is_lasting(int code) { return code == ILLEGAL_ADDRESS || code == LAUNCH_FAILED; }

int injected(const char *name) {
    const int n = ++n_calls[name];
    const char *wanted = std::getenv("NETWEIGHT_STUB_FAIL");
    const size_t len = std::strlen(name);
    if (!wanted || std::strncmp(wanted, name, len) != 0 || wanted[len] != ':') return 0;
    int code = 0, call = 1;
    std::sscanf(wanted + len, ":%d:%d", &code, &call);
    if (n != call) return 0;
    if (is_lasting(code)) lost = code;
    return code;
}

}  // namespace

// 0 where a call may go on. `needs_context`: one must be current, and not lost.
int netweight_stub_enter(const char *name, bool needs_context, const std::string &detail) {
    if (std::getenv("NETWEIGHT_STUB_LOG")) std::fprintf(stderr, "stub: %s %s\n", name, detail.c_str());
    if (needs_context && lost) return lost;
    if (needs_context && !is_initialized) return NOT_INITIALIZED;
    if (needs_context && (current != &context || n_contexts == 0)) return INVALID_CONTEXT;
    return injected(name);
}

#define ENTER(NAME, NEEDS_CONTEXT, DETAIL) \
    const std::lock_guard<std::recursive_mutex> guard(lock); \
    if (const int code = netweight_stub_enter(#NAME, NEEDS_CONTEXT, DETAIL)) return code

namespace {

// What no thread may do while it captures in thread-local mode. It breaks the capture.
int unsafe_in_capture() {
    for (Stream *stream : streams) {
        if (stream->is_capturing && stream->capturer == std::this_thread::get_id()) {
            stream->is_broken = true;
            return CAPTURE_UNSUPPORTED;
        }
    }
    return 0;
}

int map(std::map<unsigned long long, Mapping> &into, size_t len, unsigned long long *address) {
    const size_t rounded = (len + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const size_t mapped_bytes = (rounded + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES;
    void *base = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return OUT_OF_MEMORY;
    char *end = static_cast<char *>(base) + mapped_bytes - PAGE_BYTES;
    mprotect(end, PAGE_BYTES, PROT_NONE);
    std::memset(end - rounded, 0xff, rounded);
    *address = reinterpret_cast<unsigned long long>(end - rounded);
    into[*address] = {static_cast<char *>(base), mapped_bytes, rounded};
    return 0;
}

int unmap(std::map<unsigned long long, Mapping> &from, unsigned long long address) {
    const auto found = from.find(address);
    if (found == from.end()) return INVALID_VALUE;
    munmap(found->second.base, found->second.mapped_bytes);
    from.erase(found);
    return 0;
}

bool is_memory(unsigned long long address, size_t len) {
    auto found = memory.upper_bound(address);
    if (found == memory.begin()) return false;
    --found;
    return address + len <= found->first + found->second.len;
}

int copy(Stream *stream, void *dst, const void *src, size_t len) {
    return netweight_stub_submit(stream, [=] { std::memcpy(dst, src, len); return 0; });
}

// "cubin 86" or "ptx 80"; the capability that an image is for.
std::string image_kind(const unsigned char *image, int *target, bool *is_ptx) {
    *is_ptx = std::memcmp(image, "\x7f" "ELF", 4) != 0;
    if (!*is_ptx) {
        *target = image[8] >= 8 ? image[49] : image[48];  // e_flags, by version of the ABI
        return "cubin " + std::to_string(*target);
    }
    const char *at = std::strstr(reinterpret_cast<const char *>(image), ".target sm_");
    *target = at ? std::atoi(at + 11) : 0;
    return "ptx " + std::to_string(*target);
}

}  // namespace

// Does work that was issued to a stream, or keeps it for the graph.
int netweight_stub_submit(void *handle, Work work) {
    if (!handle) return work();  // the default stream, which everybody has
    Stream *stream = static_cast<Stream *>(handle);
    if (!streams.count(stream)) return INVALID_HANDLE;
    if (!stream->is_capturing) return work();
    stream->captured.push_back(std::move(work));
    return 0;
}

extern "C" {

int cuInit(unsigned) {
    ENTER(cuInit, false, "");
    if (setting("NETWEIGHT_STUB_DEVICES", 1) == 0) return NO_DEVICE;
    is_initialized = true;
    return 0;
}
int cuDriverGetVersion(int *version) {
    ENTER(cuDriverGetVersion, false, "");
    *version = int(setting("NETWEIGHT_STUB_DRIVER_VERSION", 13000));
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    for (const Text &text : TEXTS) if (text.code == code) return *name = text.name, 0;
    return INVALID_VALUE;
}
int cuGetErrorString(int code, const char **name) {
    for (const Text &text : TEXTS) if (text.code == code) return *name = text.text, 0;
    return INVALID_VALUE;
}
int cuDeviceGetCount(int *count) {
    ENTER(cuDeviceGetCount, false, "");
    if (!is_initialized) return NOT_INITIALIZED;
    *count = int(setting("NETWEIGHT_STUB_DEVICES", 1));
    return 0;
}
int cuDeviceGet(int *device, int ordinal) {
    ENTER(cuDeviceGet, false, std::to_string(ordinal));
    if (ordinal < 0 || ordinal >= setting("NETWEIGHT_STUB_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return 0;
}
int cuDeviceGetName(char *name, int len, int device) {
    ENTER(cuDeviceGetName, false, "");
    std::snprintf(name, size_t(len), "stub GPU %d", device);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int) {
    ENTER(cuDeviceTotalMem_v2, false, "");
    *bytes = memory_bytes();
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER(cuDeviceGetAttribute, false, std::to_string(attribute));
    switch (attribute) {
        case 16: return *value = 4, 0;                   // multiprocessors
        case 38: return *value = 1 << 20, 0;             // second-level cache
        case 75: return *value = capability() / 10, 0;
        case 76: return *value = capability() % 10, 0;
        case 97: return *value = MAX_SHARED_BYTES, 0;    // shared memory of a block that asks for it
    }
    return INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **into, int) {
    ENTER(cuDevicePrimaryCtxRetain, false, "");
    n_contexts++;
    *into = &context;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) {
    const size_t n_alive = memory.size() + pinned.size() + streams.size() + events.size() + graphs.size() +
                           executables.size() + modules.size();
    ENTER(cuDevicePrimaryCtxRelease_v2, false, "things that are left: " + std::to_string(n_alive));
    n_contexts--;
    return 0;
}
int cuCtxSetCurrent(void *wanted) {
    ENTER(cuCtxSetCurrent, false, "");
    if (wanted && (wanted != &context || n_contexts == 0)) return INVALID_CONTEXT;
    current = wanted;
    return 0;
}

int cuModuleLoadData(void **module, const void *image) {
    int target;
    bool is_ptx;
    const std::string kind = image_kind(static_cast<const unsigned char *>(image), &target, &is_ptx);
    ENTER(cuModuleLoadData, true, kind);
    const bool is_chip = capability() == 87 || capability() == 110;  // systems on a chip take no cubins of cards
    if (!is_ptx && (is_chip || target / 10 != capability() / 10 || target > capability())) return NO_BINARY_FOR_GPU;
    if (is_ptx && setting("NETWEIGHT_STUB_DRIVER_VERSION", 13000) < 12090) return UNSUPPORTED_PTX_VERSION;
    if (is_ptx && target > capability()) return INVALID_PTX;
    Module *made = new Module;
    modules.insert(made);
    *module = made;
    return 0;
}
int cuModuleUnload(void *module) {
    ENTER(cuModuleUnload, true, "");
    if (!modules.erase(static_cast<Module *>(module))) return INVALID_HANDLE;
    delete static_cast<Module *>(module);
    return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
    ENTER(cuModuleGetFunction, true, name);
    if (!modules.count(static_cast<Module *>(module))) return INVALID_HANDLE;
    const size_t args_bytes = netweight_emulator_args_bytes(name);
    if (args_bytes == 0) return NOT_FOUND;
    auto &known = functions[name];
    if (!known) known.reset(new Function{name, args_bytes});
    *function = known.get();
    return 0;
}
int cuFuncGetAttribute(int *value, int attribute, void *) {
    ENTER(cuFuncGetAttribute, true, std::to_string(attribute));
    *value = attribute == 1 ? 1024 : 0;  // shared memory that a kernel always has: the emulator does not tell
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) {
    ENTER(cuFuncSetAttribute, true, std::to_string(attribute) + " = " + std::to_string(value));
    if (attribute != 8 || value > MAX_SHARED_BYTES) return INVALID_VALUE;
    static_cast<Function *>(function)->dynamic_bytes = unsigned(value);
    return 0;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER(cuMemGetInfo_v2, true, "");
    *total = memory_bytes();
    *free = *total - used_bytes;
    return 0;
}
int cuMemAlloc_v2(unsigned long long *address, size_t len) {
    ENTER(cuMemAlloc_v2, true, std::to_string(len));
    if (const int code = unsafe_in_capture()) return code;
    if (len == 0) return INVALID_VALUE;
    if (len > memory_bytes() - used_bytes) return OUT_OF_MEMORY;
    if (const int code = map(memory, len, address)) return code;
    used_bytes += memory[*address].len;
    return 0;
}
int cuMemFree_v2(unsigned long long address) {
    ENTER(cuMemFree_v2, true, "");
    if (const int code = unsafe_in_capture()) return code;
    if (!memory.count(address)) return INVALID_VALUE;
    used_bytes -= memory[address].len;
    return unmap(memory, address);
}
int cuMemHostAlloc(void **into, size_t len, unsigned) {
    ENTER(cuMemHostAlloc, true, std::to_string(len));
    if (const int code = unsafe_in_capture()) return code;
    unsigned long long address;
    if (const int code = map(pinned, len, &address)) return code;
    *into = reinterpret_cast<void *>(address);
    return 0;
}
int cuMemFreeHost(void *address) {
    ENTER(cuMemFreeHost, true, "");
    if (const int code = unsafe_in_capture()) return code;
    return unmap(pinned, reinterpret_cast<unsigned long long>(address));
}
int cuMemsetD8Async(unsigned long long dst, unsigned char byte, size_t len, void *stream) {
    ENTER(cuMemsetD8Async, true, std::to_string(len));
    if (!is_memory(dst, len)) return INVALID_VALUE;
    return netweight_stub_submit(stream, [=] { std::memset(reinterpret_cast<void *>(dst), byte, len); return 0; });
}
int cuMemcpyHtoDAsync_v2(unsigned long long dst, const void *src, size_t len, void *stream) {
    ENTER(cuMemcpyHtoDAsync_v2, true, std::to_string(len));
    if (!is_memory(dst, len)) return INVALID_VALUE;
    return copy(static_cast<Stream *>(stream), reinterpret_cast<void *>(dst), src, len);
}
int cuMemcpyDtoHAsync_v2(void *dst, unsigned long long src, size_t len, void *stream) {
    ENTER(cuMemcpyDtoHAsync_v2, true, std::to_string(len));
    if (!is_memory(src, len)) return INVALID_VALUE;
    return copy(static_cast<Stream *>(stream), dst, reinterpret_cast<const void *>(src), len);
}

int cuStreamCreate(void **stream, unsigned flags) {
    ENTER(cuStreamCreate, true, std::to_string(flags));
    Stream *made = new Stream;
    streams.insert(made);
    *stream = made;
    return 0;
}
int cuStreamDestroy_v2(void *stream) {
    ENTER(cuStreamDestroy_v2, true, "");
    if (!streams.erase(static_cast<Stream *>(stream))) return INVALID_HANDLE;
    delete static_cast<Stream *>(stream);
    return 0;
}
int cuStreamSynchronize(void *handle) {
    ENTER(cuStreamSynchronize, true, "");
    if (!handle) return 0;
    Stream *stream = static_cast<Stream *>(handle);
    if (!streams.count(stream)) return INVALID_HANDLE;
    if (stream->is_capturing) return stream->is_broken = true, CAPTURE_UNSUPPORTED;
    return 0;
}
int cuStreamWaitEvent(void *, void *event, unsigned) {
    ENTER(cuStreamWaitEvent, true, "");
    return events.count(static_cast<Event *>(event)) ? 0 : INVALID_HANDLE;
}
int cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER(cuStreamBeginCapture_v2, true, std::to_string(mode));
    Stream *stream = static_cast<Stream *>(handle);
    if (stream->is_capturing || mode != 1) return INVALID_VALUE;
    stream->is_capturing = true, stream->is_broken = false, stream->capturer = std::this_thread::get_id();
    return 0;
}
int cuStreamEndCapture(void *handle, void **graph) {
    ENTER(cuStreamEndCapture, true, "");
    Stream *stream = static_cast<Stream *>(handle);
    if (!stream->is_capturing) return CAPTURE_UNMATCHED;
    if (stream->capturer != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    stream->is_capturing = false;
    Graph *made = new Graph{std::move(stream->captured)};
    stream->captured.clear();
    if (stream->is_broken) return delete made, CAPTURE_INVALIDATED;
    graphs.insert(made);
    *graph = made;
    return 0;
}

int cuEventCreate(void **event, unsigned) {
    ENTER(cuEventCreate, true, "");
    Event *made = new Event;
    events.insert(made);
    *event = made;
    return 0;
}
int cuEventRecord(void *handle, void *stream) {
    ENTER(cuEventRecord, true, "");
    Event *event = static_cast<Event *>(handle);
    if (!events.count(event)) return INVALID_HANDLE;
    return netweight_stub_submit(stream, [=] {
        event->is_reached = true, event->at = std::chrono::steady_clock::now();
        return 0;
    });
}
int cuEventElapsedTime(float *milliseconds, void *begin, void *end) {
    ENTER(cuEventElapsedTime, true, "");
    const Event *from = static_cast<Event *>(begin), *to = static_cast<Event *>(end);
    if (!from->is_reached || !to->is_reached) return INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
    return 0;
}
int cuEventDestroy_v2(void *event) {
    ENTER(cuEventDestroy_v2, true, "");
    if (!events.erase(static_cast<Event *>(event))) return INVALID_HANDLE;
    delete static_cast<Event *>(event);
    return 0;
}

int cuLaunchKernel(void *handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared_bytes, void *stream, void **parameters, void **extra) {
    const Function function = *static_cast<Function *>(handle);
    ENTER(cuLaunchKernel, true, function.name);
    if (shared_bytes > function.dynamic_bytes || threads_y != 1 || threads_z != 1 || extra) return INVALID_VALUE;
    if (x == 0 || y == 0 || z == 0) return INVALID_VALUE;
    const char *args = static_cast<const char *>(parameters[0]);
    const std::vector<char> copied(args, args + function.args_bytes);
    return netweight_stub_submit(stream, [=] {
        std::vector<unsigned long long> aligned((copied.size() + 7) / 8);
        std::memcpy(aligned.data(), copied.data(), copied.size());
        const unsigned grid[3] = {x, y, z};
        char error[512] = "";
        if (netweight_emulator_launch(function.name.c_str(), grid, threads, shared_bytes, aligned.data(),
                                      copied.size(), 0, error, sizeof error) == 0) return 0;
        std::fprintf(stderr, "stub: error: %s\n", error);
        return lost = LAUNCH_FAILED, int(LAUNCH_FAILED);
    });
}

int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    ENTER(cuGraphInstantiateWithFlags, true, "");
    if (!graphs.count(static_cast<Graph *>(graph))) return INVALID_HANDLE;
    Graph *made = new Graph(*static_cast<Graph *>(graph));
    executables.insert(made);
    *executable = made;
    return 0;
}
int cuGraphDestroy(void *graph) {
    ENTER(cuGraphDestroy, true, "");
    if (!graphs.erase(static_cast<Graph *>(graph))) return INVALID_HANDLE;
    delete static_cast<Graph *>(graph);
    return 0;
}
int cuGraphLaunch(void *handle, void *stream) {
    Graph *executable = static_cast<Graph *>(handle);
    ENTER(cuGraphLaunch, true, executables.count(executable) ? std::to_string(executable->work.size()) : "");
    if (!executables.count(executable)) return INVALID_HANDLE;
    for (const Work &work : executable->work) {
        if (const int code = netweight_stub_submit(stream, work)) return code;
    }
    return 0;
}
int cuGraphExecDestroy(void *executable) {
    ENTER(cuGraphExecDestroy, true, "");
    if (!executables.erase(static_cast<Graph *>(executable))) return INVALID_HANDLE;
    delete static_cast<Graph *>(executable);
    return 0;
}

}  // extern "C"
