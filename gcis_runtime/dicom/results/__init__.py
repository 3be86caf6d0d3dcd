"""Write results as DICOM: segmentation (SEG), contours (RTSTRUCT) and measurements (SR). Needs highdicom."""
