"""Adapters for other programs; no other part of ksched imports them. All of them need torch."""

from ksched.kernels.torch_needed import need_torch

need_torch("ksched.integrations")
