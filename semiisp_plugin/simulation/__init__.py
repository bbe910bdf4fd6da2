"""Labelled pairs without a camera: photographs through a simulated sensor (input) and a retouching look (target).

The simulation is richer than f_ISP on purpose (true sRGB curve, saturating sensor, black-level residue, noise, light
fall-off, vibrance, split toning), so that a good result on it is not owed to f_ISP being its exact inverse.
"""
