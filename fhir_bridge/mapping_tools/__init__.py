"""Tools for those who write rule packs: they read packs and samples on the engineer's own machine and store nothing.

Above the rooms they look into (``intake`` and ``normalize``) and beside the lines, which never need them. Every tool
gives plain values; ``cli`` prints them.

Invariants:
    * a pack is never changed, but for expected files that the engineer has agreed to;
    * a sample is read message by message and only counts are kept.
"""
