"""An extension of A1111, Forge and reForge that adds ksched's samplers and noise schedules to the menus.

Copy the folder ``extension`` that contains this file to ``extensions/ksched`` of the program, or run
``python -m ksched.integrations.k_diffusion install PATH``. ksched must be installed in the program's Python.
"""

try:
    from ksched.integrations.k_diffusion.menus import register
except ImportError as error:
    print(f"ksched: no samplers were added to the menus: {error}")
else:
    register()
