"""The weights MMDetection has published for its SOLOv2 variants."""

from dataclasses import dataclass
from types import MappingProxyType

#: Where MMDetection keeps them: each in a folder of its own below this.
BASE_URL = "https://download.openmmlab.com/mmdetection/v2.0/solov2"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One file as its authors published it.

    ``file_name`` is ``<model>_<date>-<sha256 prefix>.pth``. ``mask_ap`` is the COCO val2017 mask
    AP in percent that they report for it.
    """

    file_name: str
    mask_ap: float

    @property
    def sha256_prefix(self) -> str:
        """First 8 hex digits of the file's sha256."""
        return self.file_name.removesuffix(".pth").rpartition("-")[2]

    @property
    def path(self) -> str:
        """Of the file below ``BASE_URL`` or below a mirror of it."""
        model = self.file_name.rsplit("_", 2)[0]
        return f"{model}/{self.file_name}"

    @property
    def url(self) -> str:
        return f"{BASE_URL}/{self.path}"


# mmdetection 2.x configs/solov2/README.md; of light_r50_dcn_3x it publishes no weights.
PUBLISHED = MappingProxyType(
    {
        variant: PublishedWeights(file_name, mask_ap)
        for variant, file_name, mask_ap in (
            ("r50_1x", "solov2_r50_fpn_1x_coco_20220512_125858-a357fa23.pth", 34.8),
            ("r50_3x", "solov2_r50_fpn_3x_coco_20220512_125856-fed092d4.pth", 37.5),
            ("r101_3x", "solov2_r101_fpn_3x_coco_20220511_095119-c559a076.pth", 39.1),
            ("r101_dcn_3x", "solov2_r101_dcn_fpn_3x_coco_20220513_214734-16c966cb.pth", 41.2),
            ("x101_dcn_3x", "solov2_x101_dcn_fpn_3x_coco_20220513_214337-aef41095.pth", 42.4),
            ("light_r18_3x", "solov2_light_r18_fpn_3x_coco_20220511_083717-75fa355b.pth", 29.7),
            ("light_r34_3x", "solov2_light_r34_fpn_3x_coco_20220511_091839-e51659d3.pth", 31.9),
            ("light_r50_3x", "solov2_light_r50_fpn_3x_coco_20220512_165256-c93a6074.pth", 33.7),
        )
    }
)
