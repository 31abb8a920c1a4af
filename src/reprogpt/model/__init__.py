"""GPT-2, its loss and dropout; kernels/ has fast paths, lecture1/ the models before GPT-2."""
