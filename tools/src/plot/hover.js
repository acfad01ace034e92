// One line at the same moment in all charts of a domain, and what was then.
for (const domain of document.querySelectorAll("[data-course]")) {
  const course = JSON.parse(domain.dataset.course);
  const charts = [...domain.querySelectorAll("svg.time")];
  const readout = domain.querySelector(".readout");
  const {left, right, view} = course;
  const hide = () => {
    charts.forEach(svg => svg.querySelector(".cross").style.opacity = 0);
    readout.textContent = "";
  };
  charts.forEach(svg => {
    svg.addEventListener("mouseleave", hide);
    svg.addEventListener("mousemove", event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * view;
      const share = (x - left) / (right - left);
      if (share < 0 || share > 1) return hide();
      charts.forEach(other => {
        const cross = other.querySelector(".cross");
        cross.setAttribute("x1", x);
        cross.setAttribute("x2", x);
        cross.style.opacity = 0.6;
      });
      let at = 0;
      while (at + 1 < course.at.length && course.at[at + 1] <= share) at++;
      const time = share * course.length;
      readout.textContent = `${time.toPrecision(3)} ${course.unit}: ${course.percent[at]} % in 2M pages`;
    });
  });
}
