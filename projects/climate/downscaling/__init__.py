"""A small downscaler for climate fields: data, patches, network, training, evaluation, export.

Import from the files: ``fields`` (generate or read), ``patches`` (cut), ``train``, ``evaluate``,
``export``. Importing this package imports nothing.
"""
