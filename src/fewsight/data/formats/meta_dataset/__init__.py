"""The ten sources of Meta-Dataset from their ordinary published files: no TFRecords, no conversion.

One short reader a source; `find.py` looks for all of them in a folder. Where the authors' conversion crops or inverts
(Triantafillou et al. 2020 and its code), the reader does so when a photo is opened.
"""
