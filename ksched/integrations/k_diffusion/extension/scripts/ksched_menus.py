"""An extension of A1111, Forge and reForge: ksched's samplers and noise schedules in the menus.

Copy the folder ``extension``, which this is in, to ``extensions/ksched`` of the program, whose Python must have ksched;
``python -m ksched.integrations.k_diffusion install PATH`` does the same.
"""

try:
    from ksched.integrations.k_diffusion.menus import register
except ImportError as error:
    print(f"ksched: its samplers are not in the menus: {error}")
else:
    register()
