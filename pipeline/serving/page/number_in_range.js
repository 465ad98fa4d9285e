// Gradio's number fields beside sliders keep whatever is typed; what is computed is within the slider's range.
const FIELDS = ["#scale", "#budget"];

function told(field) {
  const block = field.closest(FIELDS.join());
  const line = block.querySelector(".told") ?? block.appendChild(document.createElement("p"));
  line.className = "told note";
  line.role = "status";
  return line;
}

function isNumber(field) {
  return field.matches(FIELDS.map((id) => `${id} input[type=number]`).join());
}

document.addEventListener("input", (event) => {
  if (event.target.closest(FIELDS.join())) told(event.target).textContent = "";
});
document.addEventListener("change", (event) => {
  const field = event.target;
  if (!isNumber(field)) return;
  const typed = field.value;
  const allowed = Math.min(Math.max(Number(typed), Number(field.min)), Number(field.max));
  if (typed !== "" && allowed === Number(typed)) return;
  field.value = allowed;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  told(field).textContent = `From ${field.min} to ${field.max}: ${allowed} it is.`;
});
