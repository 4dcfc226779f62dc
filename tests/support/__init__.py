"""What tests share: peers, servers, processes, kernels and networks, each once. No module here is a test."""
