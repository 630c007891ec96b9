"""The commands of `tandem`, a file each; `profiles.cli` joins them.

They declare arguments and help only: what is heavy is imported when a command runs, so that help comes at once.
"""
