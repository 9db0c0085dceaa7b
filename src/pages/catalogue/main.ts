document.title = 'Images';
