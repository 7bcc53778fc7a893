"""What other tools write: COCO, Pascal VOC, YOLO, Label Studio, MegaDetector, Parquet, and a zip of any layout.

Each reader makes a `LabelFile` of image labels; `annotations.py` says which reader fits a file or folder.
"""
