"""What runs beside the application on its hosts: in its processes, and in services of the host.

The role celery_app installs this package below the application's root, and a process finds it by PYTHONPATH. Modules
that the application's processes import need only the standard library and the application's own Celery; the modules in
services run with Debian's Python.
"""
