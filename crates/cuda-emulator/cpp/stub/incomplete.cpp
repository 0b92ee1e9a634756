// A libcuda.so.1 that lacks most functions.
extern "C" int cuInit(unsigned) { return 0; }
extern "C" int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
