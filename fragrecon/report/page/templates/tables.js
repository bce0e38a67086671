// Makes the tables sortable and searchable. DataTables is a module, so it is imported from a blob of its text.
(async () => {
  const text = JSON.parse(document.getElementById("datatables").textContent);
  const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const { default: DataTable } = await import(address);
  URL.revokeObjectURL(address);
  for (const table of document.querySelectorAll("table.sorted")) {
    const short = table.dataset.pageLength !== "-1";
    const searched = table.querySelector('th[data-searchable="true"]');
    const hidden = table.querySelector('th[data-visible="false"]');
    new DataTable(table, {
      autoWidth: false,
      order: [],
      lengthMenu: [Number(table.dataset.pageLength), { label: "all", value: -1 }],
      paging: short,
      buttons: [{ extend: "colvis", text: "columns" }],
      layout: {
        topStart: searched ? "search" : null,
        topEnd: hidden ? "buttons" : null,
        bottomStart: short ? "pageLength" : null,
        bottomEnd: short ? "paging" : null,
      },
      language: {
        search: "",
        searchPlaceholder: "filter",
        lengthMenu: "_MENU_ rows",
        zeroRecords: "no matching rows",
      },
    });
  }
})();
