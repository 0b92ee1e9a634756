// All kernels, one unit: what the artefacts in ../artefacts are compiled from.
#include "primitives.cuh"

#include "bias.cu"
#include "decode.cu"
#include "encode.cu"
#include "experts.cu"
#include "linear.cu"
#include "norm.cu"
#include "pointwise.cu"
#include "rope.cu"
#include "wide.cu"
