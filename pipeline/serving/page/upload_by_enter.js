// Gradio's upload button opens the files at Space and at a click, but not at Enter.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.target.matches("#photo .upload-container")) return;
  event.preventDefault();
  event.target.click();
});
