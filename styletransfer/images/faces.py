"""Face detection."""

import logging

import numpy as np
from PIL import Image

from ..errors import UsageError, install_hint, plural
from .images import Picture

log = logging.getLogger(__name__)

#: Maximum longer side of the image that is searched, in pixels.
SEARCHED = 800
#: Minimum side of a face, relative to the image's shorter side.
SMALLEST = 0.06
#: Minimum number of overlapping detections of a face.
DETECTIONS = 6
#: Half-axes of the ellipse of a face, relative to the side of its detection, and the width of the soft border, relative
#: to them. A wider one leaves the content unpainted around the face.
HALF_WIDTH, HALF_HEIGHT, SOFT = 0.4, 0.5, 0.5


def find_faces(picture: Picture) -> Picture | None:
    """Return a mask of the faces in an image, ellipses with soft borders; None, with a warning, if there are none.

    Only frontal faces are found, by OpenCV's detector of Viola and Jones, *Rapid Object Detection using a Boosted
    Cascade of Simple Features*, CVPR 2001.

    Raises:
        UsageError: OpenCV 4 is not installed.
    """
    try:
        import cv2

        cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")
    except (ImportError, AttributeError):
        raise UsageError(f"finding faces needs OpenCV 4; run: {install_hint('faces')}") from None
    width, height = picture.rgb.size
    scale = min(1.0, SEARCHED / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    gray = np.asarray(picture.rgb.convert("L").resize(size, Image.Resampling.BOX))
    smallest = max(24, round(SMALLEST * min(size)))
    found = cascade.detectMultiScale(cv2.equalizeHist(gray), 1.05, DETECTIONS, minSize=(smallest, smallest))
    if not len(found):
        log.warning("%s: no face found", picture.name)
        return None
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    mask = np.zeros(size[::-1])
    for left, top, side, _ in found:
        distance = np.hypot((x - left - side / 2) / (HALF_WIDTH * side), (y - top - side / 2) / (HALF_HEIGHT * side))
        inside = np.clip((1 + SOFT - distance) / SOFT, 0, 1)
        mask = np.maximum(mask, inside * inside * (3 - 2 * inside))
    log.info("%s: %s", picture.name, plural(len(found), "face"))
    return Picture(Image.fromarray((255 * mask).round().astype(np.uint8)).convert("RGB"), None, picture.name)
