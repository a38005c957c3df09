//! candle operations with gradients for the layer and the loss.
