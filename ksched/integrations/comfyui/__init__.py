"""ksched inside ComfyUI: sampler functions, noise levels, nodes, and menu entries.

To have the nodes, put a folder into ComfyUI's ``custom_nodes`` whose ``__init__.py`` says
``from ksched.integrations.comfyui import *``; ``python -m ksched.integrations.comfyui install PATH`` writes it. ComfyUI
is imported only when a part of it is needed.
"""

from ksched.integrations.comfyui.menus import register
from ksched.integrations.comfyui.models import process_of
from ksched.integrations.comfyui.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, comfy_entrypoint
from ksched.integrations.comfyui.sampling import calculate_sigmas, sampler_function

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "calculate_sigmas",
    "comfy_entrypoint",
    "process_of",
    "register",
    "sampler_function",
]
