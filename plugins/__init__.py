"""Pyblish plugins that publish a publish request in one transaction: collect, validate, integrate.

Register this folder by its path::

    pyblish.api.register_plugin_path(os.path.dirname(integrator_plugins.__file__))
"""
