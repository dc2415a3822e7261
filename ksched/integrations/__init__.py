"""Adapters for other programs; no other part of ksched imports them."""
