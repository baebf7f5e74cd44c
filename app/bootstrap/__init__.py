"""The composition root: settings in, services out. The only place where adapters and engines are built.

A command imports the part that it needs: what speaks to AWS takes half a second to import.
"""
