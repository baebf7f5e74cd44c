"""The composition root: settings in, services out. The only place where adapters and engines are built.

A command imports the part that it needs: the server and the AWS SDK take long to import.
"""
