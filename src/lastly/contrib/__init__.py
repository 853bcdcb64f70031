"""Thin adapters for frameworks whose lifespan has another shape than `lastly.lifespan` has.

Each module may import nothing but lastly's public names, so that none needs its framework.
"""
