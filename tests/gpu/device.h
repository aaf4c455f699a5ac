// Memory and errors of a GPU, for the programs that run on one.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace kvant::gpu {

/// Ends the program, with the call and CUDA's reason, unless it succeeded.
inline void Must(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s, %s\n", call, cudaGetErrorName(error), cudaGetErrorString(error));
  std::exit(2);
}

/// `count` elements of the GPU's memory; owner.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    Must(cudaMalloc(reinterpret_cast<void**>(&data_), count > 0 ? count * sizeof(T) : 1), "cudaMalloc");
  }
  explicit DeviceArray(std::span<const T> from) : DeviceArray(from.size()) { Write(from); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return count_; }
  // Done when they return: other streams do not wait for the one that these use.
  void Write(std::span<const T> from) {
    Must(cudaMemcpy(data_, from.data(), from.size_bytes(), cudaMemcpyHostToDevice), "upload");
    Must(cudaDeviceSynchronize(), "upload");
  }
  void Fill(int byte) {
    Must(cudaMemset(data_, byte, count_ * sizeof(T)), "cudaMemset");
    Must(cudaDeviceSynchronize(), "cudaMemset");
  }
  [[nodiscard]] std::vector<T> Read() const {
    std::vector<T> all(count_);
    Must(cudaMemcpy(all.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return all;
  }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

/// A stream that waits for no other; owner.
class OwnStream {
 public:
  OwnStream() { Must(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void Wait() const { Must(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// What `enqueue` puts on a stream, recorded once to be run often; owner.
class Graph {
 public:
  template <class Enqueue>
  Graph(cudaStream_t stream, const Enqueue& enqueue) {
    cudaGraph_t graph = nullptr;
    Must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    enqueue();
    Must(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    Must(cudaGraphInstantiate(&graph_, graph, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(graph);
  }
  ~Graph() { cudaGraphExecDestroy(graph_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void Launch(cudaStream_t stream) const { Must(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace kvant::gpu
