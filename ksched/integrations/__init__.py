"""Adapters for other programs; nothing else imports them."""
