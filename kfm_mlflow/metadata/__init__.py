"""STAC, PROV, SBOM and model card: documents that other people's tools read.

``facts`` holds what builders are told. ``stac``, ``prov``, ``sbom`` and ``card`` each build one
document from facts and (the card apart, which its schema judges) evaluate one. ``schemas`` judges
every JSON document of ours. Order of writing: evidence, card, PROV, SBOM, STAC item.
"""
