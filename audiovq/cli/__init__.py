"""The command `audiovq`: each verb a thin wrapper over one library function.

Standard output carries what was asked for and nothing else; what was done and what failed is said on
standard error.
"""
