
// The page: its charts, the slider through the pictures, and what print needs.

document.documentElement.classList.add("js");
for (const [id, data] of Object.entries(JSON.parse(document.getElementById("chart-data").textContent))) {
  makeChart(document.getElementById(`chart-${id}`), data);
}

const pictures = [...document.querySelectorAll(".picture")];
const slider = document.getElementById("picture");

function showPicture(chosen) {
  pictures.forEach((picture, i) => picture.classList.toggle("shown", i === chosen));
  slider?.setAttribute("aria-valuetext", pictures[chosen].dataset.place);
}

slider?.addEventListener("input", () => showPicture(Number(slider.value)));
if (pictures.length) showPicture(slider ? Number(slider.value) : 0);

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));
