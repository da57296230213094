"""Measurements that back the project's claims: kernels, the network, whole frames, SBNet's tables."""
