"""The page: Gradio's controls, and a view of before and after with a divider."""
