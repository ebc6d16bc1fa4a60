"The scoreboard's networks once more in Keras layers, with the same weights where they are trained; no user's code."
from types import SimpleNamespace

import keras
from keras import layers

keras.config.set_image_data_format("channels_first")


def norm():
    return layers.BatchNormalization(axis=1, epsilon=1e-5, momentum=0.9)


def twin(model) -> keras.Model:
    "`small()` or `empty()` in Keras: a body and a head."
    convolutions = [module for module in model.body.modules() if type(module).__name__ == "Conv2d"]
    if not convolutions:
        return keras.Sequential([keras.Input((1, 32, 32)), keras.Sequential([layers.Flatten()], name="body"),
                                 layers.Dense(46, name="head")])
    body = keras.Sequential([keras.Input((1, 32, 32))], name="body")
    for index, convolution in enumerate(convolutions):
        for layer in (layers.Conv2D(convolution.out_channels, 3, padding="same", use_bias=False), norm(), layers.ReLU(),
                      layers.MaxPooling2D(2)):
            layer.trainable = convolution.weight.requires_grad
            body.add(layer)
        of_torch = model.body[index][1]
        body.layers[4 * index].set_weights([convolution.weight.detach().permute(2, 3, 1, 0).numpy()])
        body.layers[4 * index + 1].set_weights([value.detach().numpy() for value in (
            of_torch.weight, of_torch.bias, of_torch.running_mean, of_torch.running_var)])
    head = keras.Sequential([layers.Flatten(), layers.Dense(46)], name="head")
    return keras.Sequential([keras.Input((1, 32, 32)), body, head])


def resnet_twin() -> keras.Model:
    "ResNet-18 in Keras: a body and a head."
    def convolve(x, filters, size, stride):
        x = layers.ZeroPadding2D(size // 2)(x)
        return norm()(layers.Conv2D(filters, size, strides=stride, use_bias=False)(x))

    def block(x, filters, stride):
        way = convolve(layers.ReLU()(convolve(x, filters, 3, stride)), filters, 3, 1)
        if stride > 1:
            x = convolve(x, filters, 1, stride)
        return layers.ReLU()(layers.Add()([way, x]))

    start = keras.Input((3, 96, 96))
    x = layers.ReLU()(convolve(start, 64, 7, 2))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    for filters, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        x = block(x, filters, stride)
    body = keras.Model(start, layers.GlobalAveragePooling2D()(x), name="body")
    return keras.Sequential([keras.Input((3, 96, 96)), body, layers.Dense(8, name="head")])


class Part:
    "A body or a head as the scoreboard looks at it."
    def __init__(self, layer): self.layer = layer

    def moving_tensors(self) -> dict:
        return {weight.path: ("buffer" if "moving_" in weight.path else "parameter", weight.value.detach().clone())
                for weight in self.layer.weights}


class Look:
    "A Keras model as the scoreboard looks at it."
    def __init__(self, net):
        self.net, self.body, self.head = net, Part(net.layers[0]), Part(net.layers[1])

    def parameters(self):
        learns = {id(weight) for weight in self.net.trainable_weights}
        return [SimpleNamespace(numel=weight.value.numel, requires_grad=id(weight) in learns)
                for weight in self.net.weights if "moving_" not in weight.path]


def whole(net) -> dict:
    "Everything that a freeze may change."
    return {"which learn": {layer.path: layer.trainable for layer in net._flatten_layers()},
            "values": {weight.path: weight.value.detach().clone() for weight in net.weights},
            "averages of the optimizer": {i: weight.value.detach().clone() for i, weight in
                                          enumerate(net.optimizer.variables[2:])}}
