"""The independent oracle: explicit enumeration of the paths of tiny networks. It never imports the compiler."""
