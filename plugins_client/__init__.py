"""The pyblish plugin for hosts that cannot load `integrator`: it runs on Python 3.7 and needs `integrator_client` alone.

Register this folder by its path, or copy its one plugin and ``integrator_client.py`` to where the hosts find them.
"""
