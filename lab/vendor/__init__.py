"""A vendor's package repositories for tests: tiny packages with the names, versions, dependencies and conflicts of the real ones.

Nothing here touches a GPU. What the packages' programs print comes from the folder of a synthetic machine (files/stand-in-machine).
It runs on a lab host of its own, with what that host has: Python, dpkg-deb and gpg.
"""
