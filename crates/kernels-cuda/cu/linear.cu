// Linear layers, compiled for each layout.
#include "exact11.cuh"
#include "linear.cuh"

LINEAR_KERNELS(rows, Rows, 2, 2, 2, 2, 1)
LINEAR_KERNELS(exact11, Exact11, 2, 2, 1, 2, 1)
LINEAR_KERNELS(exact12, Exact12, 3, 2, 1, 2, 1)
