from leapcore import ImageInput, LayerFeatureProvider, LayerFeatures, LayerInfo, import_timm, load_weights

import_timm()
from timm.models.mlp_mixer import MlpMixer  # noqa: E402  safe to import after the line above


class MixerProvider(LayerFeatureProvider):
    def __init__(self, model, size):
        self.patch = model.stem.patch_size[0]
        layers = [LayerInfo(f"blocks.{i}", model.embed_dim, self.patch) for i in range(len(model.blocks))]
        super().__init__(layers, ImageInput(size, mean=(0.5,) * 3, std=(0.5,) * 3))
        self.model = model

    @classmethod
    def build(cls, *, model, weights, image_size, options):
        network = MlpMixer(num_classes=0, img_size=image_size, **options)
        load_weights(network, weights)
        return cls(network, (image_size, image_size))

    def iter_layers(self, images):
        x = self.model.stem(images)
        for block in self.model.blocks:
            x = block(x)
            yield LayerFeatures(x, (images.shape[2] // self.patch, images.shape[3] // self.patch))

    def finalize(self, features, layer):
        return features.map(self.model.norm)
