"""Kernels that cost nothing to start: each is forked from one process that has already imported the libraries.

`template` is that process, `launcher` what a kernelspec starts in place of ipykernel, `rendezvous` how the two find
each other, `spec` the kernelspec called `study`. Linux only; elsewhere, and on any failure, the launcher becomes a
plain kernel and says so once.
"""
